"""The documentation: its pages, the MkDocs hooks that build it, and its drawings."""
