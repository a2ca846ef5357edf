(() => {
  const form = document.getElementById("passkey");
  if (!form || !window.PublicKeyCredential || !PublicKeyCredential.parseRequestOptionsFromJSON) return;
  const options = JSON.parse(form.dataset.options);
  const ask = form.dataset.purpose === "create"
    ? () => navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
    : () => navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      form.elements.credential.value = JSON.stringify((await ask()).toJSON());
      form.submit();
    } catch {
      form.querySelector("[role=alert]").hidden = false;
    }
  });
})();
