"""The documentation: pages, what MkDocs does with them, and the plots in them."""
