"""What floats hold exactly."""

MOST_EXACT = {8: 2**53, 4: 2**24, 2: 2**11}  # whole numbers up to it, of floats of so many bytes
