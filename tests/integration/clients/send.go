// Go's net/smtp: SSL_CERT_FILE=ca.pem go run send.go job.json
//
// The standard library has no composer: the message is put together as its users do, with encoded words in the
// headers and the bodies as they are, 8-bit and with lines of any length.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"os"
	"strings"
)

type job struct {
	Host, User, Key, Bcc, Subject, Html, Text, Image, Cid string
	Port                                                  int
	Auth                                                  bool
	From                                                  [2]string
	To                                                    [][2]string
	ReplyTo                                               [2]string `json:"reply_to"`
	Headers                                               map[string]string
}

func mailbox(pair [2]string) string {
	address := mail.Address{Name: pair[0], Address: pair[1]}
	return address.String()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func compose(j job) []byte {
	var message, alternative bytes.Buffer
	outer, inner := multipart.NewWriter(&message), multipart.NewWriter(&alternative)
	names, recipients := []string{}, j.To
	for _, each := range recipients {
		names = append(names, mailbox(each))
	}
	fmt.Fprintf(&message, "From: %s\r\nTo: %s\r\nReply-To: %s\r\n", mailbox(j.From), strings.Join(names, ", "), mailbox(j.ReplyTo))
	fmt.Fprintf(&message, "Subject: %s\r\nMIME-Version: 1.0\r\n", mime.QEncoding.Encode("utf-8", j.Subject))
	for name, value := range j.Headers {
		fmt.Fprintf(&message, "%s: %s\r\n", name, mime.BEncoding.Encode("utf-8", value))
	}
	fmt.Fprintf(&message, "Content-Type: multipart/related; boundary=%s\r\n\r\n", outer.Boundary())

	for _, alternative := range [][2]string{{"plain", j.Text}, {"html", j.Html}} {
		part, err := inner.CreatePart(textproto.MIMEHeader{
			"Content-Type":              {"text/" + alternative[0] + "; charset=utf-8"},
			"Content-Transfer-Encoding": {"8bit"},
		})
		check(err)
		_, err = part.Write([]byte(alternative[1]))
		check(err)
	}
	check(inner.Close())
	part, err := outer.CreatePart(textproto.MIMEHeader{
		"Content-Type": {"multipart/alternative; boundary=" + inner.Boundary()},
	})
	check(err)
	_, err = part.Write(alternative.Bytes())
	check(err)

	image, err := os.ReadFile(j.Image)
	check(err)
	part, err = outer.CreatePart(textproto.MIMEHeader{
		"Content-Type":              {"image/png"},
		"Content-Transfer-Encoding": {"base64"},
		"Content-Id":                {"<" + j.Cid + ">"},
	})
	check(err)
	_, err = part.Write([]byte(base64.StdEncoding.EncodeToString(image)))
	check(err)
	check(outer.Close())
	return message.Bytes()
}

func main() {
	content, err := os.ReadFile(os.Args[1])
	check(err)
	var j job
	check(json.Unmarshal(content, &j))
	recipients := []string{}
	for _, each := range j.To {
		recipients = append(recipients, each[1])
	}
	var auth smtp.Auth
	if j.Auth {
		auth = smtp.PlainAuth("", j.User, j.Key, j.Host)
	}
	check(smtp.SendMail(fmt.Sprintf("%s:%d", j.Host, j.Port), auth, j.From[1], append(recipients, j.Bcc), compose(j)))
}
