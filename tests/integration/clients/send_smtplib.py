"""Python's EmailMessage and smtplib: ``python send_smtplib.py job.json``."""

import json
import smtplib
import ssl
import sys
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path

job = json.loads(Path(sys.argv[1]).read_text("utf-8"))


def address(name, mailbox):
    return Address(name, *mailbox.split("@"))


message = EmailMessage()
message["From"] = address(*job["from"])
message["To"] = [address(*each) for each in job["to"]]
message["Bcc"] = job["bcc"]
message["Reply-To"] = address(*job["reply_to"])
message["Subject"] = job["subject"]
for name, value in job["headers"].items():
    message[name] = value
message.set_content(job["text"])
message.add_alternative(job["html"], subtype="html")
image = Path(job["image"]).read_bytes()
message.get_payload()[1].add_related(image, "image", "png", cid=f"<{job['cid']}>")

with smtplib.SMTP(job["host"], job["port"], timeout=30) as client:
    client.starttls(context=ssl.create_default_context(cafile=job["ca_file"]))
    if job["auth"]:
        client.login(job["user"], job["key"])
    client.send_message(message)
