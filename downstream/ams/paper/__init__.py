"""The figures of the image server compared with the paper's: bytes, hours, and the workload they are measured on."""
