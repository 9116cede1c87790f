"""The simulated shop in parts: settings, products (rendered or photographed), behaviour, oracle."""
