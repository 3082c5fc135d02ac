package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

// newEndpointKeys are the commands that replace an endpoint's signing key.
func newEndpointKeys(conn *connection) []*cobra.Command {
	return []*cobra.Command{
		newEndpointRotate(conn), newEndpointClaim(conn),
		endpointAct(conn, "activate-secret", "Sign with the next key from now on", []string{"etag"},
			func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
				return c.ActivateSecret(cmd.Context(), &sealpostv1.ActivateSecretRequest{Id: id, Tenant: tenant, Etag: flagText(cmd, "etag")})
			}),
		newEndpointRevokeSecret(conn),
		endpointAct(conn, "rotate-certificate", "Present a new client certificate to the endpoint, ahead of its renewal", []string{"etag", "reason"},
			func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
				return c.RotateClientCertificate(cmd.Context(), &sealpostv1.RotateClientCertificateRequest{
					Id: id, Tenant: tenant, Etag: flagText(cmd, "etag"), Reason: flagText(cmd, "reason")})
			}),
	}
}

func newEndpointRotate(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate ID", Short: "Replace the signing key; the new secret is shown this once", Args: cobra.ExactArgs(1),
		Long: `Replace the signing key; the new secret is shown this once.

Receivers may go on with the old key for the overlap. Schemes that carry two signatures (standard, standard-ed25519, rfc9421) are
signed with both keys meanwhile. Under the others the old key signs until the overlap is over, or until activate-secret, so that
receivers can learn the new one first.`,
		Example: `  sealpost endpoint rotate ep_0123456789abcdef --tenant acme --overlap 48h --secret-out partner.secret
  sealpost endpoint rotate ep_0123456789abcdef --tenant acme --revoke --reason "the secret was in a log"`,
	}
	f := cmd.Flags()
	tenant := f.String("tenant", "", "tenant of the endpoint")
	etag := f.String("etag", "", actFlags["etag"])
	overlap := f.Duration("overlap", 24*time.Hour, "how long the old key stays good, 0 to 720h (default the endpoint's own, or 24h)")
	f.Lookup("overlap").DefValue = ""
	revoke := f.Bool("revoke", false, "an emergency: every key before the new one is out of use at once")
	secretFile := f.String("signing-secret-file", "", "file with a signing secret of the partner's own (default one is made)")
	secretOut := f.String("secret-out", "", "write the secret, or the public key, to this new file instead of showing it")
	reason := f.String("reason", "", actFlags["reason"])
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		request := &sealpostv1.RotateSecretRequest{Id: args[0], Tenant: *tenant, Etag: *etag, Revoke: *revoke, Reason: *reason}
		if cmd.Flags().Changed("overlap") {
			request.Overlap = durationpb.New(*overlap)
		}
		if *secretFile != "" {
			text, err := readBounded(*secretFile, maxSecretBytes)
			if err != nil {
				return fmt.Errorf("signing secret: %w", err)
			}
			request.Secret = proto.String(strings.TrimSpace(string(text)))
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewEndpointServiceClient(c.Conn()).RotateSecret(cmd.Context(), request)
			if err != nil {
				return err
			}
			return showOnce(cmd, *secretOut, answer, &answer.Secret, &answer.PublicKeyPem, func(w io.Writer) { keyRows(w, answer.GetEndpoint()) })
		})
	}
	return cmd
}

func newEndpointClaim(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "claim-secret ID", Short: "Show, once, the secret of the next key that the schedule made", Args: cobra.ExactArgs(1),
		Example: "  sealpost endpoint claim-secret ep_0123456789abcdef --tenant acme --secret-out partner.secret",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the endpoint")
	etag := cmd.Flags().String("etag", "", actFlags["etag"])
	secretOut := cmd.Flags().String("secret-out", "", "write the secret to this new file instead of showing it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewEndpointServiceClient(c.Conn()).ClaimSecret(cmd.Context(),
				&sealpostv1.ClaimSecretRequest{Id: args[0], Tenant: *tenant, Etag: *etag})
			if err != nil {
				return err
			}
			var lost error
			if *secretOut != "" {
				if lost = writeSecret(*secretOut, answer.GetSecret()); lost == nil {
					answer.Secret = ""
				}
			}
			err = show(cmd, answer, func(w io.Writer) {
				keyRows(w, answer.GetEndpoint())
				if s := answer.GetSecret(); s != "" {
					row(w, "secret", s)
				}
			})
			return errors.Join(err, lost)
		})
	}
	return cmd
}

func newEndpointRevokeSecret(conn *connection) *cobra.Command {
	var key string
	cmd := endpointAct(conn, "revoke-secret", "Take one key of a rotation out of use at once", []string{"etag", "reason"},
		func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
			return c.RevokeSecret(cmd.Context(), &sealpostv1.RevokeSecretRequest{
				Id: id, Tenant: tenant, Etag: flagText(cmd, "etag"), KeyId: key, Reason: flagText(cmd, "reason")})
		})
	cmd.Flags().StringVar(&key, "key", "", "id of the key, as endpoint show has it")
	cmd.MarkFlagRequired("key")
	cmd.Example = "  sealpost endpoint revoke-secret ep_0123456789abcdef --tenant acme --key 0123456789abcdef"
	return cmd
}

// keyRows shows an endpoint's signing keys.
func keyRows(w io.Writer, ep *sealpostv1.Endpoint) {
	row(w, "id", ep.GetId())
	for _, k := range ep.GetSigningKeys() {
		text := k.GetState().String()
		switch {
		case k.GetUnclaimed():
			text += ", waits to be claimed until " + when(k.GetActivateTime())
		case k.GetActivateTime() != nil:
			text += ", signs from " + when(k.GetActivateTime())
		case k.GetExpireTime() != nil:
			text += ", good until " + when(k.GetExpireTime())
		}
		row(w, "key "+k.GetId(), text)
	}
	row(w, "etag", ep.GetEtag())
}
