"""What the report page is made of."""
