"""Other servers' protocols, so that clients which people have ask the app with another address alone."""
