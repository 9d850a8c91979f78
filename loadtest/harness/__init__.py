"""What loadtest/run is made of. Reading order: cases, peers, process, load, memory, report."""
