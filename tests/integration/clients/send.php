<?php
// PHPMailer: php send.php job.json
require '/usr/share/php/libphp-phpmailer/autoload.php';

$job = json_decode(file_get_contents($argv[1]), true);
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = $job['host'];
$mail->Port = $job['port'];
$mail->SMTPSecure = 'tls';
$mail->SMTPOptions = ['ssl' => ['cafile' => $job['ca_file']]];
$mail->SMTPAuth = $job['auth'];
$mail->Username = $job['user'];
$mail->Password = $job['key'];
$mail->CharSet = 'utf-8';
$mail->setFrom($job['from'][1], $job['from'][0]);
foreach ($job['to'] as $to) {
    $mail->addAddress($to[1], $to[0]);
}
$mail->addBCC($job['bcc']);
$mail->addReplyTo($job['reply_to'][1], $job['reply_to'][0]);
$mail->Subject = $job['subject'];
foreach ($job['headers'] as $name => $value) {
    $mail->addCustomHeader($name, $value);
}
$mail->isHTML(true);
$mail->Body = $job['html'];
$mail->AltBody = $job['text'];
$mail->addEmbeddedImage($job['image'], $job['cid'], 'logo.png');
try {
    $mail->send();
    echo $mail->getSMTPInstance()->getLastTransactionID(), "\n";
} catch (Exception $error) {
    fwrite(STDERR, $error->getMessage() . "\n");
    exit(1);
}
