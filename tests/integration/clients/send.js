// nodemailer: NODE_PATH=node_modules node send.js job.json
const fs = require("fs");
const nodemailer = require("nodemailer");

const job = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const mailbox = ([name, address]) => ({ name, address });

const transport = nodemailer.createTransport({
  host: job.host,
  port: job.port,
  secure: false,
  requireTLS: true,
  tls: { ca: fs.readFileSync(job.ca_file) },
  auth: job.auth ? { user: job.user, pass: job.key } : undefined,
});

transport
  .sendMail({
    from: mailbox(job.from),
    to: job.to.map(mailbox),
    bcc: job.bcc,
    replyTo: mailbox(job.reply_to),
    subject: job.subject,
    headers: job.headers,
    text: job.text,
    html: job.html,
    attachments: [{ filename: "logo.png", path: job.image, cid: job.cid }],
  })
  .then((info) => console.log(info.response))
  .catch((error) => {
    console.error(String(error));
    process.exitCode = 1;
  });
