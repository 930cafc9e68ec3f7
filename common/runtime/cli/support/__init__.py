"""`support-bundle`: what whoever helps will ask for, in one archive, without secrets."""
