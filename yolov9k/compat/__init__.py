"""Work with other implementations: their models, files and habits."""
