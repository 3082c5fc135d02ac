package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which build this is",
		Args:    cobra.NoArgs,
		Example: "  sealpost version --output json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			facts := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{Version: buildVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						facts.Revision = s.Value
					}
				}
			}
			asJSON, err := wantsJSON(cmd)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(facts)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "sealpost %s (%s, %s)\n", facts.Version, facts.Go, facts.Platform)
			return err
		},
	}
}
