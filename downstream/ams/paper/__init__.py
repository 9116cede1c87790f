"""The figures of the image server beside the paper's: bytes, hours, and the workload they are measured on."""
