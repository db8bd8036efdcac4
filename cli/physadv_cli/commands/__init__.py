"""One file a command, one library call each; torch is imported inside."""
