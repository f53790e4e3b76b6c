from sonarllm_cli.cli import main

main()
