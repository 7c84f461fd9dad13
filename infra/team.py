"""Prepare a team's Prefect server, the one at PREFECT_API_URL: python -m infra.team, before its workers start."""

from prefect.client.orchestration import get_client

from infra.worker import create_pool, deploy


def main() -> None:
    """Create or renew work pool and deployments; runs that are under way stay as they are."""
    with get_client(sync_client=True) as client:
        create_pool(client)
        deploy(client)


if __name__ == "__main__":
    main()
