package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/relay/client"
)

const backupHelp = `Copy everything that a start needs into one file, while the server goes on.

It takes an operator's token for all tenants. The copy is of the moment when it was begun: what was accepted before is in it, with
where each delivery stood. It HOLDS THE KEYS that endpoints' secrets are sealed with, the operator's token and the CA's key, and
the events with their data: the file is for its owner's eyes alone (0600), and --age-recipient encrypts it to an age public key
(age-encryption.org), to be kept elsewhere than its identity. An external NATS server is backed up with its own tools.

Without encryption the file is a tar with a SHA256SUMS inside.`

func newBackup(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "backup", Short: "Copy everything into a file, while the server goes on", Long: backupHelp, Args: cobra.NoArgs,
		Example: "  sealpost backup --to sealpost-2026-01-02.tar\n" +
			"  sealpost backup --to - --age-recipient age1... | ssh vault 'cat > sealpost.tar.age'",
	}
	to := cmd.Flags().String("to", "", "file to write, which must not be there; - is standard output")
	recipients := cmd.Flags().StringArray("age-recipient", nil, "age public key to encrypt to; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *to == "" {
			return usagef("--to is needed: a file, or - for standard output")
		}
		keys, err := ageRecipients(*recipients)
		if err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			write := func(w io.Writer) error { return sealedBackup(cmd, c, w, keys) }
			if *to == "-" {
				return write(cmd.OutOrStdout())
			}
			return writeNewFile(*to, write)
		})
	}
	return cmd
}

func ageRecipients(texts []string) (keys []age.Recipient, err error) {
	for _, text := range texts {
		key, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, usagef("--age-recipient: %q is no age public key (age1...)", text)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// sealedBackup writes the archive, encrypted where there are keys to encrypt to.
func sealedBackup(cmd *cobra.Command, c *client.Client, w io.Writer, keys []age.Recipient) error {
	if len(keys) == 0 {
		return download(cmd, c, w)
	}
	sealed, err := age.Encrypt(w, keys...)
	if err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	// Only the end of the encryption makes it whole: after an error there is none.
	if err := download(cmd, c, sealed); err != nil {
		return err
	}
	return sealed.Close()
}

func download(cmd *cobra.Command, c *client.Client, w io.Writer) error {
	stream, err := sealpostv1.NewSystemServiceClient(c.Conn()).Backup(cmd.Context(), &sealpostv1.BackupRequest{})
	if err != nil {
		return err
	}
	shown := newByteCount(cmd.ErrOrStderr())
	defer shown.end()
	return receive(stream.Recv, func(data []byte) error {
		_, err := w.Write(data)
		shown.add(len(data))
		return err
	})
}

// receive takes the parts of a stream of bytes until it ends; one that ends with an error is not whole.
func receive[M interface{ GetData() []byte }](next func() (M, error), take func([]byte) error) error {
	for {
		part, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := take(part.GetData()); err != nil {
			return err
		}
	}
}

// writeNewFile makes a file for its owner's eyes whole and durable, or not at all. It replaces none.
func writeNewFile(name string, write func(io.Writer) error) error {
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already: name a file that is not", name)
	}
	temp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if err = write(temp); err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), name); err != nil { // a rename would replace what came meanwhile
		return err
	}
	folder, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// byteCount tells a terminal how far something has come, once a second.
type byteCount struct {
	to    io.Writer // nil: nobody looks
	n     int64
	shown time.Time
}

func newByteCount(to io.Writer) *byteCount {
	if f, ok := to.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return &byteCount{to: to, shown: time.Now()}
		}
	}
	return &byteCount{}
}

func (b *byteCount) add(n int) {
	b.n += int64(n)
	if b.to != nil && time.Since(b.shown) >= time.Second {
		b.shown = time.Now()
		fmt.Fprintf(b.to, "\r%.1f MiB", float64(b.n)/(1<<20))
	}
}

func (b *byteCount) end() {
	if b.to != nil {
		fmt.Fprintf(b.to, "\r%.1f MiB\n", float64(b.n)/(1<<20))
	}
}

const restoreHelp = `Make a data folder of what 'sealpost backup' wrote.

The folder must not be there, or be empty. It appears when it is whole and on the disk; an archive that is damaged or cut off makes
nothing. 'sealpost serve' then goes on from the moment when the backup was begun: what was delivered since is sent again, under
the same ids, and what was accepted since is not there. The server that was backed up must not run beside it. A view in Redis
must be emptied before the start; it is rebuilt.

Subjects that were erased since the backup are not erased in it. With --erasures and a later backup of the same server they are: nothing
of them is sent, and the first start erases their events.`

func newRestore() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restore", Short: "Make a data folder of a backup", Long: restoreHelp, Args: cobra.NoArgs,
		Example: "  sealpost restore --from sealpost-2026-01-02.tar --data sealpost-data",
	}
	from := cmd.Flags().String("from", "", "file that backup wrote; - is standard input")
	data := cmd.Flags().String("data", "", "folder to make")
	erasures := cmd.Flags().String("erasures", "", "a later backup: what was erased until then is erased in what is restored too")
	identity := cmd.Flags().String("age-identity", "", "file with the age identity that it was encrypted to")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *from == "" || *data == "" {
			return usagef("--from and --data are needed")
		}
		in := cmd.InOrStdin()
		if *from != "-" {
			f, err := os.Open(*from)
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		in, err := opened(in, *identity)
		if err != nil {
			return err
		}
		log, err := newLogger(logConfig{Format: "text", Level: "warn"}, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		o := app.RestoreOptions{Data: *data, From: in, Version: buildVersion(), Logger: log}
		if *erasures != "" {
			f, err := os.Open(*erasures)
			if err != nil {
				return err
			}
			defer f.Close()
			if o.Erasures, err = opened(f, *identity); err != nil {
				return err
			}
		}
		return restore(cmd.Context(), cmd.OutOrStdout(), o)
	}
	return cmd
}

func restore(ctx context.Context, out io.Writer, o app.RestoreOptions) error {
	made, err := app.Restore(ctx, o)
	if err != nil {
		return fmt.Errorf("nothing was restored: %w", err)
	}
	var partitions []string
	for p, last := range made.Events {
		partitions = append(partitions, fmt.Sprintf("partition %d up to event %d", p, last))
	}
	slices.Sort(partitions)
	fmt.Fprintf(out, "restored %s: %s\n", o.Data, dash(strings.Join(partitions, ", ")))
	if made.Erasures > 0 {
		fmt.Fprintf(out, "%d subjects will be erased at the first start\n", made.Erasures)
	}
	return nil
}

// maxIdentityBytes bounds a file of age identities.
const maxIdentityBytes = 64 << 10

// opened decrypts, where there is an identity to do it with.
func opened(in io.Reader, identityFile string) (io.Reader, error) {
	if identityFile == "" {
		return in, nil
	}
	text, err := readBounded(identityFile, maxIdentityBytes)
	if err != nil {
		return nil, fmt.Errorf("age identity: %w", err)
	}
	identities, err := age.ParseIdentities(strings.NewReader(string(text)))
	if err != nil {
		return nil, fmt.Errorf("age identity: %s holds none that can be read", identityFile)
	}
	plain, err := age.Decrypt(in, identities...)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return plain, nil
}
