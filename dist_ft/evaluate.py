"""Score a trained network on a folder of labelled images."""


def main() -> None:
    from dist_ft.inference import assessment

    assessment.main()


if __name__ == "__main__":
    main()
