"""Log set-up and the lines of a link."""
