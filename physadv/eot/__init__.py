"""What lies between the patch and the sensor, differentiable (EOT)."""
