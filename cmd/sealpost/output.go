package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// group is a command that only holds others.
func group(use, short, example string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			var known []string
			for _, sub := range cmd.Commands() {
				known = append(known, sub.Name())
			}
			return usagef("%s has no command %q; did you mean %q?", cmd.CommandPath(), args[0], nearest(args[0], known))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			if err := cmd.Help(); err != nil {
				return err
			}
			return usagef("%s needs a command", cmd.CommandPath())
		},
	}
}

// addExamples puts each command's examples at the end of its help, and gives one to those that cobra makes.
func addExamples(root *cobra.Command) {
	root.SetUsageTemplate(usageTemplate(root.UsageTemplate()))
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		switch cmd.CommandPath() {
		case "sealpost completion":
			cmd.Example = "  source <(sealpost completion bash)"
			cmd.RunE, cmd.Args = group("", "", "").RunE, group("", "", "").Args
		case "sealpost help":
			cmd.Example = "  sealpost help endpoint create"
		}
		if cmd.Parent() != nil && cmd.Parent().Name() == "completion" {
			cmd.Example = fmt.Sprintf("  sealpost completion %s", cmd.Name())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// usageTemplate is cobra's with the examples moved to the end.
func usageTemplate(usual string) string {
	const example = "{{if .HasExample}}\n\nExamples:\n{{.Example}}{{end}}"
	return strings.TrimRight(strings.Replace(usual, example, "", 1), "\n") + example + "\n"
}

// wantsJSON reads --output.
func wantsJSON(cmd *cobra.Command) (bool, error) {
	switch o := cmd.Flag("output").Value.String(); o {
	case "json":
		return true, nil
	case "table":
		return false, nil
	default:
		return false, usagef("--output: %q is neither table nor json", o)
	}
}

// jsonOf is a message in protobuf's JSON. Its bytes-typed data, where it has some, is the JSON value that it holds.
func jsonOf(m proto.Message, data []byte) ([]byte, error) {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		members := map[string]json.RawMessage{}
		if err := json.Unmarshal(text, &members); err != nil {
			return nil, err
		}
		members["data"] = data
		if text, err = json.Marshal(members); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	err = json.Compact(&b, text) // protojson varies its spaces
	return b.Bytes(), err
}

// show prints a message as JSON, or with table.
func show(cmd *cobra.Command, m proto.Message, table func(w io.Writer)) error {
	asJSON, err := wantsJSON(cmd)
	if err != nil {
		return err
	}
	if !asJSON {
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
	text, err := jsonOf(m, nil)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), b.String())
	return err
}

// row prints the cells of one line of a table. What a stranger wrote cannot break the line or steer a terminal.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, plain(fmt.Sprint(c)))
	}
	fmt.Fprintln(w)
}

// plain is text without control characters.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// when is a time of the API in a table.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format(time.DateTime)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// explain is an error for people: what the server said, which fields it named, and what can be done.
func explain(err error) string {
	var coded interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &coded) {
		return err.Error()
	}
	s := coded.GRPCStatus()
	text := s.Message()
	for _, d := range s.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				if line := v.GetField() + ": " + v.GetDescription(); !strings.Contains(text, line) {
					text += "\n  " + line
				}
			}
		}
	}
	switch s.Code() {
	case codes.Unavailable:
		text += "\nIs the server running, and is --server its gRPC address?"
	case codes.Unauthenticated:
		text += "\nGive a valid token with --token-file; 'sealpost token create' makes one."
	case codes.PermissionDenied:
		text += "\nThe token does not allow this; an operator can make one that does."
	case codes.Aborted:
		text += "\nRead it again and repeat with the new etag."
	}
	return plainLines(text)
}

func plainLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	return strings.Join(lines, "\n")
}
