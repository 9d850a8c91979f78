"""What loadtest/run is made of. The order to read it in is in README.md."""
