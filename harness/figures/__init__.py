"""Pictures for print: tidy frames, kinds of drawings, one style."""
