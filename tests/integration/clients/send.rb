# Ruby's mail: SSL_CERT_FILE=ca.pem ruby send.rb job.json
require "json"
require "mail"

job = JSON.parse(File.read(ARGV[0], encoding: "UTF-8"))

def mailbox(name, address)
  Mail::Address.new(address).tap { |each| each.display_name = name }.format
end

mail = Mail.new(charset: "UTF-8") do
  from mailbox(*job["from"])
  to job["to"].map { |each| mailbox(*each) }
  bcc job["bcc"]
  reply_to mailbox(*job["reply_to"])
  subject job["subject"]
  text_part do
    content_type "text/plain; charset=UTF-8"
    body job["text"]
  end
  html_part do
    content_type "text/html; charset=UTF-8"
    body job["html"]
  end
  attachments.inline["logo.png"] = {
    content: File.binread(job["image"]), mime_type: "image/png", content_id: "<#{job["cid"]}>"
  }
end
job["headers"].each { |name, value| mail.header[name] = value }

settings = { address: job["host"], port: job["port"], enable_starttls: :always, open_timeout: 30, read_timeout: 30 }
settings.update(user_name: job["user"], password: job["key"], authentication: :plain) if job["auth"]
mail.delivery_method :smtp, **settings
mail.deliver!
