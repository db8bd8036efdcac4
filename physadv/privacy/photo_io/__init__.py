"""Read and write photographs without losing metadata or bit depth."""
