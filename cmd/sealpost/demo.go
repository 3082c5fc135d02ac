package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/cmd/sealpost/demo"
	"github.com/sealpost/sealpost/relay/app"
)

const demoHelp = `Show the main job, and check it: a server with everything embedded, five partners on mutual TLS, the events of a made-up CRM.

The partners differ in policy, signature scheme and filter, and one of them is down for a while. The exit status is 0 only if every
delivery that the events call for was verified by its receiver, with just the content that policy leaves, and no sensitive
value came to any partner.`

func newDemo() *cobra.Command {
	cmd := &cobra.Command{
		Use: "demo", Short: "Show the main job in a minute, and check it", Long: demoHelp, Args: cobra.NoArgs,
		Example: "  sealpost demo\n  sealpost demo --data ./demo-data --output json",
	}
	data := cmd.Flags().String("data", "", "folder to work in and leave (default one that is removed)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		report, err := demo.Run(cmd.Context(), demo.Options{
			App:      app.Options{Data: *data, Version: buildVersion(), OpenView: openView},
			Progress: cmd.ErrOrStderr(),
		})
		if err != nil {
			return err
		}
		if asJSON {
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(report)
		} else {
			fmt.Fprintln(cmd.OutOrStdout())
			err = report.Table(cmd.OutOrStdout())
		}
		if err == nil && !report.OK() {
			err = errors.New("not everything that should have happened did")
		}
		if err == nil && !asJSON {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nEverything checked out, in %.1f s.\n", report.Seconds)
		}
		return err
	}
	return cmd
}
