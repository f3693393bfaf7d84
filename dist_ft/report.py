"""Write an HTML report of a training run."""


def main() -> None:
    from dist_ft.reporting import run_report

    run_report.main()


if __name__ == "__main__":
    main()
