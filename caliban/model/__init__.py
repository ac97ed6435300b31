"""What caliban reasons about: frozen values and pure functions over them, no input or output."""
