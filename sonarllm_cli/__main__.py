"""The way in. Ctrl-C while the command line itself is being loaded ends as it does later: in one line."""

import sys


def main() -> None:
    try:
        from sonarllm_cli.cli import main as run

        run()
    except KeyboardInterrupt:
        print("sonarllm: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
