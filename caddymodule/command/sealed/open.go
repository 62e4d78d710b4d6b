package sealed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Open opens a file of secrets to read it. It warns if other users can read it too.
func Open(path string, warnings io.Writer) (*os.File, os.FileInfo, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory, not a file", path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	if info.Mode().Perm()&0o004 != 0 {
		fmt.Fprintf(warnings, "Warning: all users of this machine can read %s, which has secrets: chmod 600 it.\n", path)
	}
	return file, info, nil
}

// Keys name the file that decrypts a file of secrets.
type Keys struct {
	IdentityFile   string // of age identities; empty: none
	PassphraseFile string // empty: none
}

// Validate returns an error if there is more than one.
func (k Keys) Validate() error {
	if k.IdentityFile != "" && k.PassphraseFile != "" {
		return errors.New("--identity and --passphrase-file exclude each other")
	}
	return nil
}

// How files begin that age has encrypted, in bytes and as text.
const (
	ageMagic = "age-encryption.org/"
	ageArmor = armor.Header
)

// Decrypt returns the plain text of in, which is in itself unless age has encrypted it. Errors
// name path.
func (k Keys) Decrypt(in *bufio.Reader, path string) (io.Reader, error) {
	start, _ := in.Peek(len(ageArmor)) // a short file has less
	var encrypted io.Reader = in
	switch {
	case bytes.HasPrefix(start, []byte(ageMagic)):
	case bytes.HasPrefix(start, []byte(ageArmor)):
		encrypted = armor.NewReader(in)
	default:
		return in, nil
	}
	identities, err := k.identities()
	if err != nil {
		return nil, err
	}
	if len(identities) == 0 {
		return nil, fmt.Errorf("%s is encrypted with age: give --identity or --passphrase-file", path)
	}
	plain, err := age.Decrypt(encrypted, identities...)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be decrypted: %w", path, k.explain(err))
	}
	return plain, nil
}

// identities returns what decrypts a file.
func (k Keys) identities() ([]age.Identity, error) {
	switch {
	case k.IdentityFile != "":
		file, err := os.Open(k.IdentityFile)
		if err != nil {
			return nil, fmt.Errorf("--identity: %w", err)
		}
		defer file.Close()
		ids, err := age.ParseIdentities(file)
		if err != nil { // its text can quote a line of the file
			return nil, fmt.Errorf("--identity: %s has no age identities, such as age-keygen writes", k.IdentityFile)
		}
		return ids, nil
	case k.PassphraseFile != "":
		id, err := ReadPassphraseIdentity(k.PassphraseFile)
		if err != nil {
			return nil, fmt.Errorf("--passphrase-file: %w", err)
		}
		return []age.Identity{id}, nil
	default:
		return nil, nil
	}
}

// explain says why no identity has decrypted a file.
func (k Keys) explain(err error) error {
	mismatch, ok := errors.AsType[*age.NoIdentityMatchError](err)
	if !ok {
		return err
	}
	const byPassphrase = "scrypt" // the only stanza of a file that is encrypted with a passphrase
	isByPassphrase := len(mismatch.StanzaTypes) == 1 && mismatch.StanzaTypes[0] == byPassphrase
	switch {
	case isByPassphrase && k.PassphraseFile != "":
		return fmt.Errorf("the passphrase in %s is wrong", k.PassphraseFile)
	case isByPassphrase:
		return errors.New("it is encrypted with a passphrase: give --passphrase-file")
	case k.PassphraseFile != "":
		return errors.New("it is encrypted for a key pair: give --identity")
	default:
		return fmt.Errorf("it is encrypted for another key than that in %s", k.IdentityFile)
	}
}
