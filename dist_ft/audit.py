"""Check a data set for duplicates, leaks and unreadable images."""


def main() -> None:
    from dist_ft.diagnostics import dataset_audit

    dataset_audit.main()


if __name__ == "__main__":
    main()
