"""Speed of packed layers and models beside torch and other libraries. Import the module you need; this one is empty."""
