"""The web page: what is built of ``web/`` at the root of the project, and the little that hands it out."""
