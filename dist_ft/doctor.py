"""Check that this machine, or every rank of a job, is ready to train."""


def main() -> None:
    from dist_ft.diagnostics import system_checks

    system_checks.main()


if __name__ == "__main__":
    main()
