package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newEvent(conn *connection) *cobra.Command {
	cmd := group("event", "See what was published, and erase what a person asks to have forgotten", "  sealpost event show evt_1 --tenant acme")
	cmd.AddCommand(newEventShow(conn), newEventErase(conn))
	return cmd
}

func newEventShow(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show an event as it was kept, with its data", Args: cobra.ExactArgs(1),
		Example: "  sealpost event show evt_1 --tenant acme --output json",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the event")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			e, err := sealpostv1.NewEventServiceClient(c.Conn()).GetEvent(cmd.Context(),
				&sealpostv1.GetEventRequest{Id: args[0], Tenant: *tenant})
			if err != nil {
				return err
			}
			if asJSON {
				return showEvent(cmd.OutOrStdout(), e)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			row(w, "id", e.GetId())
			row(w, "tenant", e.GetTenant())
			row(w, "type", e.GetType())
			row(w, "time", when(e.GetTime()))
			row(w, "subject", dash(e.GetSubject()))
			row(w, "accepted", when(e.GetAcceptTime()))
			routed := "not routed yet"
			if e.Matched != nil {
				routed = fmt.Sprint(e.GetMatched())
			}
			row(w, "matched", routed)
			if err := w.Flush(); err != nil {
				return err
			}
			return indented(cmd.OutOrStdout(), e.GetData())
		})
	}
	return cmd
}

// showEvent is the event in the REST API's form, with its data as the JSON value that it is.
func showEvent(w io.Writer, e *sealpostv1.Event) error {
	data := e.GetData()
	bare := proto.Clone(e).(*sealpostv1.Event)
	bare.Data = nil
	text, err := jsonOf(bare, data)
	if err != nil {
		return err
	}
	return indented(w, text)
}

func indented(w io.Writer, text []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}
