"""`python -m edge_service`, and what the installed command `edge-service` calls."""

from edge_service.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
