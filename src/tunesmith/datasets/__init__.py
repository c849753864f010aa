"""Examples: reading them in the field's shapes, checking them row by row, splitting and keeping them."""
