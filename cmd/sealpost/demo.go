package main

import "github.com/spf13/cobra"

func newDemo() *cobra.Command { return group("demo", "x", "  sealpost demo") }
