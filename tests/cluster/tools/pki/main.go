// Command pki makes a cluster's certificates: it reads a request on standard input and writes PEM files into the directory
// that is its only argument.
//
//   - ca.crt, ca.key: an authority for this request alone;
//   - sa.key, sa.pub: the pair that signs service account tokens;
//   - <name>.crt, <name>.key for every certificate asked for.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	lifetime  = 365 * 24 * time.Hour
	clockSkew = time.Hour
)

type request struct {
	Authority    string
	Certificates []certificate
}

type certificate struct {
	Name          string
	CommonName    string
	Organizations []string
	Server        bool
	Client        bool
	DNSNames      []string
	IPAddresses   []net.IP
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: pki DIRECTORY < request.json")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "pki:", err)
		os.Exit(1)
	}
}

func run(directory string) error {
	var wanted request
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&wanted); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	ca, err := newAuthority(directory, wanted.Authority)
	if err != nil {
		return err
	}
	if err := newSigningKey(directory); err != nil {
		return err
	}
	for _, c := range wanted.Certificates {
		if err := ca.issue(directory, c); err != nil {
			return fmt.Errorf("certificate %q: %w", c.Name, err)
		}
	}
	return nil
}

func newAuthority(directory, name string) (*authority, error) {
	template, err := newTemplate(pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	key, err := newKey(directory, "ca")
	if err != nil {
		return nil, err
	}
	self := &authority{certificate: template, key: key}
	der, err := self.sign(template, key)
	if err != nil {
		return nil, err
	}
	if self.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return self, writePEM(filepath.Join(directory, "ca.crt"), "CERTIFICATE", der)
}

func (a *authority) issue(directory string, c certificate) error {
	template, err := newTemplate(pkix.Name{CommonName: c.CommonName, Organization: c.Organizations})
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.DNSNames = c.DNSNames
	template.IPAddresses = c.IPAddresses
	if c.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if c.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	key, err := newKey(directory, c.Name)
	if err != nil {
		return err
	}
	der, err := a.sign(template, key)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(directory, c.Name+".crt"), "CERTIFICATE", der)
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
}

func newTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(lifetime),
	}, nil
}

func newSigningKey(directory string) error {
	key, err := newKey(directory, "sa")
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(directory, "sa.pub"), "PUBLIC KEY", der)
}

func newKey(directory, name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(filepath.Join(directory, name+".key"), "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
