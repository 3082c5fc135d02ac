package main

import (
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newToken(conn *connection) *cobra.Command {
	cmd := group("token", "Make and end the tokens that callers authenticate with", "  sealpost token list")
	cmd.AddCommand(newTokenCreate(conn), newTokenList(conn), newTokenRotate(conn), newTokenRevoke(conn))
	return cmd
}

func newTokenCreate(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token; it is shown this once", Args: cobra.NoArgs,
		Example: "  sealpost token create --account crm-backend --role publisher --tenant acme --ttl 720h --secret-out crm.token",
	}
	f := cmd.Flags()
	account := f.String("account", "", "account that acts with it")
	role := f.String("role", "", "publisher, partner, operator, security or auditor: the account's, which is made where there is none")
	tenant := f.String("tenant", "", "its tenant; an operator's, security's and auditor's may be for all")
	scopes := f.StringSlice("scopes", nil, "only these of the role's scopes, such as events.publish")
	ttl := f.Duration("ttl", 0, "how long it lives, at most 2160h (default 24h)")
	cidrs := f.StringSlice("cidr", nil, "only from these addresses, such as 192.0.2.0/24")
	rate := f.Float64("rate", 0, "calls a second, in each process (default no bound)")
	bound := f.String("bound-to", "", "only over the client certificate with this SHA-256, in hex")
	secretOut := f.String("secret-out", "", "write the token to this new file instead of showing it")
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
		token := &sealpostv1.Token{
			Account: *account, Role: sealpostv1.Token_Role(kind), Tenant: *tenant, Scopes: *scopes, Cidrs: *cidrs, RateLimit: *rate, CertificateSha256: *bound,
		}
		if f.Changed("ttl") {
			token.Ttl = durationpb.New(*ttl)
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewAccessServiceClient(c.Conn()).CreateToken(cmd.Context(), &sealpostv1.CreateTokenRequest{Token: token})
			if err != nil {
				return err
			}
			lost := keepSecret(*secretOut, &answer.Secret)
			return errors.Join(show(cmd, answer, func(w io.Writer) { tokenTable(w, answer.GetToken(), answer.GetSecret()) }), lost)
		})
	}
	return cmd
}

// keepSecret writes a secret to a file, where one is named, so that it is not shown.
func keepSecret(file string, secret *string) error {
	if file == "" {
		return nil
	}
	if err := writeSecret(file, *secret); err != nil {
		return err // it is shown: it can be had this once
	}
	*secret = ""
	return nil
}

func tokenTable(w io.Writer, t *sealpostv1.Token, secret string) {
	row(w, "id", t.GetId())
	row(w, "account", t.GetAccount())
	row(w, "role", t.GetRole())
	row(w, "tenant", dash(t.GetTenant()))
	row(w, "expires", when(t.GetExpireTime()))
	if secret != "" {
		row(w, "token", secret)
	}
}

func newTokenRotate(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate ID", Short: "Make a token in another one's place, which ends after an overlap", Args: cobra.ExactArgs(1),
		Example: "  sealpost token rotate abcdefghij234567 --overlap 2h --secret-out crm.token.new",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the token")
	overlap := cmd.Flags().Duration("overlap", time.Hour, "how long the old one is still good, at most 168h")
	secretOut := cmd.Flags().String("secret-out", "", "write the new token to this new file instead of showing it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewAccessServiceClient(c.Conn()).RotateToken(cmd.Context(),
				&sealpostv1.RotateTokenRequest{Id: args[0], Tenant: *tenant, Overlap: durationpb.New(*overlap)})
			if err != nil {
				return err
			}
			lost := keepSecret(*secretOut, &answer.Secret)
			return errors.Join(show(cmd, answer, func(w io.Writer) {
				tokenTable(w, answer.GetToken(), answer.GetSecret())
				row(w, "old one ends", when(answer.GetPrevious().GetExpireTime()))
			}), lost)
		})
	}
	return cmd
}

func newTokenList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List tokens; what they are is kept nowhere", Args: cobra.NoArgs,
		Example: "  sealpost token list --tenant acme",
	}
	tenant := cmd.Flags().String("tenant", "", "only of this tenant")
	account := cmd.Flags().String("account", "", "only of this account")
	unused := cmd.Flags().Duration("unused", 0, "only those that are good and were not used for so long, such as 720h")
	limit := cmd.Flags().Int("limit", 100, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListTokensResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				page, err := sealpostv1.NewAccessServiceClient(c.Conn()).ListTokens(cmd.Context(),
					&sealpostv1.ListTokensRequest{Tenant: *tenant, Account: *account, PageSize: size, PageToken: token, UnusedFor: lasting(*unused)})
				list.Tokens = append(list.Tokens, page.GetTokens()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetTokens()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "ID", "ACCOUNT", "ROLE", "TENANT", "SCOPES", "EXPIRES", "LAST USE", "STATE")
				for _, t := range list.GetTokens() {
					row(w, t.GetId(), t.GetAccount(), t.GetRole(), dash(t.GetTenant()), strings.Join(t.GetScopes(), ","),
						when(t.GetExpireTime()), when(t.GetLastUseTime()), tokenState(t, time.Now()))
				}
			})
		})
	}
	return cmd
}

// lasting is a duration of the API; nil for none.
func lasting(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func tokenState(t *sealpostv1.Token, now time.Time) string {
	switch {
	case t.GetRevokeTime() != nil:
		return "revoked"
	case t.GetExpireTime() != nil && !now.Before(t.GetExpireTime().AsTime()):
		return "expired"
	}
	return "live"
}

func newTokenRevoke(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "End a token at once", Args: cobra.ExactArgs(1),
		Example: "  sealpost token revoke abcdefghij234567",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the token")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			t, err := sealpostv1.NewAccessServiceClient(c.Conn()).RevokeToken(cmd.Context(),
				&sealpostv1.RevokeTokenRequest{Id: args[0], Tenant: *tenant})
			if err != nil {
				return err
			}
			return show(cmd, t, func(w io.Writer) { row(w, "revoked", t.GetId(), t.GetAccount()) })
		})
	}
	return cmd
}
