"""`python -m cloud_service`, and what the installed command `cloud-service` calls."""

from cloud_service.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
