"""Documents: what is printed, signed and filed. A builder makes a Sheet, a renderer writes it; nothing here decides."""
