"""Answer questions about pictures of coloured shapes, and describe them."""
