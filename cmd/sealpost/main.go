// Command sealpost is the signing outbox between a CRM and its partners: server and client in one binary.
//
// It promises that its exit status tells scripts what happened (0 done, 1 failed, 2 not used as its help says), that
// standard output holds results alone, and that no token or payload reaches a log. A secret is printed where
// somebody asked for it to be made, once, and nowhere else. It trusts the local files that it is pointed at; it sends the
// token that it found in a client file to that file's server only.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by release builds: -ldflags "-X main.version=1.2.3".
var version string

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	quietLibraries()
	os.Exit(run())
}

// run is main with its exit status.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second signal ends the process at once
	return execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// execute runs one command line.
func execute(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	started := markStart(root)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var usage *usageError
	if !errors.As(err, &usage) && *started {
		fmt.Fprintf(errs, "sealpost: %s\n", explain(err))
		return exitFailed
	}
	fmt.Fprintf(errs, "sealpost: %s\nSee '%s --help'.\n", err, cmd.CommandPath())
	return exitUsage
}

func newRoot() *cobra.Command {
	root := group("sealpost", "The signing outbox between a CRM and the partners who want its events", "  sealpost demo")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = false
	conn := &connection{}
	conn.flags(root)
	root.AddCommand(
		newDemo(), newBench(), newBenchSink(), newServe(), newPublish(conn), newEndpoint(conn), newIncident(conn), newDelivery(conn), newOperation(conn), newEvent(conn), newAccount(conn), newToken(conn), newPolicy(conn), newCertificate(conn), newLogin(conn), newWhoami(conn), newAudit(conn),
		newListen(), newVerify(), newBackup(conn), newRestore(), newStatus(conn), newVersion(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	addExamples(root)
	return root
}

// usageError is a command line that its command does not know how to follow.
type usageError struct{ text string }

// Error says what is wrong with it.
func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// markStart makes every command note that it was reached: what fails before is the command line's fault.
func markStart(root *cobra.Command) *bool {
	started := new(bool)
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if inner := cmd.RunE; inner != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				*started = true
				return inner(cmd, args)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return started
}

// buildVersion is the release's, or what the Go toolchain knows of the source.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
