package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newIncident(conn *connection) *cobra.Command {
	cmd := group("incident", "Stop what leaves to a partner at once, and let it go on by hand",
		`  sealpost incident contain ep_0123456789abcdef --tenant acme --reason "leaked client key, INC-42"`)
	cmd.AddCommand(
		incidentAct(conn, "contain", "Stop sending in whatever state it is and cut off what is in flight; answers when nothing more is being sent", false,
			func(c sealpostv1.IncidentServiceClient, cmd *cobra.Command, id, tenant string) (*sealpostv1.Endpoint, error) {
				return c.ContainEndpoint(cmd.Context(), &sealpostv1.ContainEndpointRequest{Id: id, Tenant: tenant, Reason: flagText(cmd, "reason")})
			}),
		incidentAct(conn, "release", "End that: the endpoint is paused until it is resumed, or waits for its approval again", true,
			func(c sealpostv1.IncidentServiceClient, cmd *cobra.Command, id, tenant string) (*sealpostv1.Endpoint, error) {
				return c.ReleaseEndpoint(cmd.Context(), &sealpostv1.ReleaseEndpointRequest{
					Id: id, Tenant: tenant, Reason: flagText(cmd, "reason"), Etag: flagText(cmd, "etag")})
			}),
	)
	return cmd
}

// incidentAct is a command that does one thing to one endpoint, for a reason, and shows what it is then.
func incidentAct(conn *connection, name, short string, etag bool,
	do func(c sealpostv1.IncidentServiceClient, cmd *cobra.Command, id, tenant string) (*sealpostv1.Endpoint, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: name + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: "  sealpost incident " + name + ` ep_0123456789abcdef --tenant acme --reason "leaked client key, INC-42"`,
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the endpoint")
	cmd.Flags().String("reason", "", actFlags["reason"]+"; required")
	if etag {
		cmd.Flags().String("etag", "", actFlags["etag"])
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		if flagText(cmd, "reason") == "" {
			return usagef("--reason is required: it stays in the audit log")
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := do(sealpostv1.NewIncidentServiceClient(c.Conn()), cmd, args[0], *tenant)
			if err != nil {
				return err
			}
			return show(cmd, answer, func(w io.Writer) { endpointRows(w, answer) })
		})
	}
	return cmd
}
