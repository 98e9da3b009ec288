"""One file per `awac` command."""
