"""What wants a person's choice: rules that raise alerts, what is chosen and done, and word of them."""
