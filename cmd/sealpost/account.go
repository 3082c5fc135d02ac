package main

import (
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newAccount(conn *connection) *cobra.Command {
	cmd := group("account", "Make, look at and disable the accounts that call", "  sealpost account list")
	cmd.AddCommand(newAccountCreate(conn), newAccountList(conn), newAccountShow(conn), newAccountDisable(conn), newAccountEnable(conn), newAccountCert(conn))
	return cmd
}

func newAccountCreate(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an account; what it may do is fixed then", Args: cobra.ExactArgs(1),
		Example: "  sealpost account create crm-backend --role publisher --tenant acme --environment production --description \"CRM, team data\"",
	}
	f := cmd.Flags()
	role := f.String("role", "", "publisher, partner, operator, security or auditor")
	tenant := f.String("tenant", "", "its tenant; an operator's, security's and auditor's may be all")
	scopes := f.StringSlice("scopes", nil, "only these of the role's scopes, such as events.publish")
	environment := f.String("environment", "", "sandbox or production (default both)")
	description := f.String("description", "", "what it is for, and who answers for it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, err := enum(sealpostv1.Token_Role_value, "role", *role)
		if err != nil {
			return err
		}
		var env int32
		if *environment != "" {
			if env, err = enum(sealpostv1.Account_Environment_value, "environment", *environment); err != nil {
				return err
			}
		}
		return accountCall(cmd, conn, func(c sealpostv1.AccessServiceClient) (*sealpostv1.Account, error) {
			return c.CreateAccount(cmd.Context(), &sealpostv1.CreateAccountRequest{Account: &sealpostv1.Account{
				Name: args[0], Tenant: *tenant, Role: sealpostv1.Token_Role(kind), Scopes: *scopes, Environment: sealpostv1.Account_Environment(env), Description: *description,
			}})
		})
	}
	return cmd
}

// accountCall makes a call that answers with an account, and shows it.
func accountCall(cmd *cobra.Command, conn *connection, call func(sealpostv1.AccessServiceClient) (*sealpostv1.Account, error)) error {
	if _, err := wantsJSON(cmd); err != nil {
		return err
	}
	return withClient(conn, func(c *client.Client) error {
		a, err := call(sealpostv1.NewAccessServiceClient(c.Conn()))
		if err != nil {
			return err
		}
		return show(cmd, a, func(w io.Writer) {
			row(w, "name", a.GetName())
			row(w, "tenant", orAll(a.GetTenant()))
			row(w, "role", a.GetRole())
			row(w, "scopes", orAll(strings.Join(a.GetScopes(), ",")))
			row(w, "environment", environmentName(a))
			row(w, "kind", a.GetKind())
			row(w, "description", dash(a.GetDescription()))
			row(w, "made by", dash(a.GetCreator()))
			row(w, "made", when(a.GetCreateTime()))
			row(w, "disabled", when(a.GetDisableTime()))
			row(w, "last use", when(a.GetLastUseTime()))
			row(w, "credentials", a.GetCredentialCount())
		})
	})
}

func orAll(s string) string {
	if s == "" {
		return "all"
	}
	return s
}

func environmentName(a *sealpostv1.Account) string {
	if a.GetEnvironment() == sealpostv1.Account_ENVIRONMENT_UNSPECIFIED {
		return "all"
	}
	return a.GetEnvironment().String()
}

func newAccountList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List accounts, with their last use", Args: cobra.NoArgs,
		Example: "  sealpost account list --tenant acme\n  sealpost account list --unused 2160h",
	}
	tenant := cmd.Flags().String("tenant", "", "only of this tenant")
	role := cmd.Flags().String("role", "", "only of this role")
	unused := cmd.Flags().Duration("unused", 0, "only those that did not call for so long, or never")
	limit := cmd.Flags().Int("limit", 100, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		var kind int32
		if *role != "" {
			var err error
			if kind, err = enum(sealpostv1.Token_Role_value, "role", *role); err != nil {
				return err
			}
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListAccountsResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				page, err := sealpostv1.NewAccessServiceClient(c.Conn()).ListAccounts(cmd.Context(), &sealpostv1.ListAccountsRequest{
					Tenant: *tenant, Role: sealpostv1.Token_Role(kind), UnusedFor: lasting(*unused), PageSize: size, PageToken: token,
				})
				list.Accounts = append(list.Accounts, page.GetAccounts()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetAccounts()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "NAME", "TENANT", "ROLE", "ENVIRONMENT", "CREDENTIALS", "LAST USE", "STATE")
				for _, a := range list.GetAccounts() {
					state := "enabled"
					if a.GetDisableTime() != nil {
						state = "disabled"
					}
					row(w, a.GetName(), orAll(a.GetTenant()), a.GetRole(), environmentName(a), a.GetCredentialCount(), when(a.GetLastUseTime()), state)
				}
			})
		})
	}
	return cmd
}

func newAccountShow(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show an account", Args: cobra.ExactArgs(1), Example: "  sealpost account show crm-backend --tenant acme",
	}
	tenant := cmd.Flags().String("tenant", "", "its tenant; none for an account of all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return accountCall(cmd, conn, func(c sealpostv1.AccessServiceClient) (*sealpostv1.Account, error) {
			return c.GetAccount(cmd.Context(), &sealpostv1.GetAccountRequest{Name: args[0], Tenant: *tenant})
		})
	}
	return cmd
}

func newAccountDisable(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "disable NAME", Short: "Refuse all of an account's credentials, at once", Args: cobra.ExactArgs(1),
		Example: "  sealpost account disable crm-backend --tenant acme --reason \"laptop stolen\"",
	}
	tenant := cmd.Flags().String("tenant", "", "its tenant; none for an account of all")
	reason := cmd.Flags().String("reason", "", "for the record")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return accountCall(cmd, conn, func(c sealpostv1.AccessServiceClient) (*sealpostv1.Account, error) {
			return c.DisableAccount(cmd.Context(), &sealpostv1.DisableAccountRequest{Name: args[0], Tenant: *tenant, Reason: *reason})
		})
	}
	return cmd
}

func newAccountEnable(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "enable NAME", Short: "Take a disabled account's credentials again", Args: cobra.ExactArgs(1),
		Example: "  sealpost account enable crm-backend --tenant acme",
	}
	tenant := cmd.Flags().String("tenant", "", "its tenant; none for an account of all")
	reason := cmd.Flags().String("reason", "", "for the record")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return accountCall(cmd, conn, func(c sealpostv1.AccessServiceClient) (*sealpostv1.Account, error) {
			return c.EnableAccount(cmd.Context(), &sealpostv1.EnableAccountRequest{Name: args[0], Tenant: *tenant, Reason: *reason})
		})
	}
	return cmd
}

const accountCertHelp = `Make a key here and have the built-in CA sign a certificate for it: what the account calls with, over mutual TLS, by --identity.

The file holds the certificate, the intermediate and the key. Commands and the Go client renew it there, at two thirds of its life. With
--request the key stays where it is: the certificate for that signing request is written, and who has the key renews it.`

func newAccountCert(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "cert NAME", Short: "Issue a client certificate to an account", Long: accountCertHelp, Args: cobra.ExactArgs(1),
		Example: "  sealpost account cert crm-backend --tenant acme --out crm.pem\n  sealpost publish events.ndjson --server sealpost.example:7780 --ca system --identity crm.pem",
	}
	f := cmd.Flags()
	tenant := f.String("tenant", "", "the account's tenant; none for an account of all")
	ttl := f.Duration("ttl", 24*time.Hour, "how long it lives, 5m to 336h; each renewed one as long")
	cidrs := f.StringSlice("cidr", nil, "only from these addresses, such as 192.0.2.0/24")
	out := f.String("out", "", "file to write, 0600 (required)")
	request := f.String("request", "", "file of a PKCS #10 signing request in PEM, in place of a key made here")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		if *out == "" {
			return usagef("--out is needed: the file to write")
		}
		key, pem, err := client.NewRequest()
		if err != nil {
			return err
		}
		if *request != "" {
			given, err := readBounded(*request, maxSecretBytes)
			if err != nil {
				return err
			}
			pem = string(given)
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewAccessServiceClient(c.Conn()).IssueCertificate(cmd.Context(), &sealpostv1.IssueCertificateRequest{
				Account: args[0], Tenant: *tenant, RequestPem: pem, Ttl: lasting(*ttl), Cidrs: *cidrs,
			})
			if err != nil {
				return err
			}
			text := []byte(answer.GetChainPem())
			if *request == "" {
				if text, err = client.IdentityPEM(answer.GetChainPem(), key); err != nil {
					return err
				}
			}
			if err := client.WriteIdentity(*out, text); err != nil {
				return err
			}
			return show(cmd, answer.GetCertificate(), func(w io.Writer) {
				row(w, "account", answer.GetCertificate().GetAccount())
				row(w, "tenant", orAll(answer.GetCertificate().GetTenant()))
				row(w, "sha256", answer.GetCertificate().GetSha256())
				row(w, "expires", when(answer.GetCertificate().GetExpireTime()))
				row(w, "file", *out)
			})
		})
	}
	return cmd
}
