package sealed

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"filippo.io/age"
)

// ParseRecipient parses the public key that a file is encrypted for, "age1...".
func ParseRecipient(text string) (age.Recipient, error) {
	recipients, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(recipients) != 1 {
		// Not quoted: it may be a private key by mistake.
		return nil, errors.New("this is not the public key of an age key pair, which begins with age1")
	}
	return recipients[0], nil
}

// ReadPassphrase reads the passphrase that a file is encrypted with, from the first line of a file.
func ReadPassphrase(path string) (age.Recipient, error) {
	passphrase, err := readPassphrase(path)
	if err != nil {
		return nil, err
	}
	return age.NewScryptRecipient(passphrase)
}

// ReadPassphraseIdentity reads the same passphrase, to decrypt a file.
func ReadPassphraseIdentity(path string) (age.Identity, error) {
	passphrase, err := readPassphrase(path)
	if err != nil {
		return nil, err
	}
	return age.NewScryptIdentity(passphrase)
}

// readPassphrase returns a passphrase that is not empty.
func readPassphrase(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if runtime.GOOS != "windows" && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("other users of this machine can read %s: chmod it to 0600", path)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	passphrase, _, _ := strings.Cut(string(content), "\n")
	if passphrase = strings.TrimSuffix(passphrase, "\r"); passphrase == "" {
		return "", fmt.Errorf("%s has no passphrase in its first line", path)
	}
	return passphrase, nil
}
