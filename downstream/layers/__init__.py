"""Small pieces that models and forms share."""
