// What the rooms beside Compare need, after assets/page/shared.js. `props.value` is what Python
// tells a room.

// The room's name; the component's own id is one of Gradio's.
const ROOM = $('.room').className.replace(/^.*\br-/, '');

// Text and a shape, not a colour alone.
function outcome(kind, text, parent) {
  const node = make('span', 'outcome ' + kind, parent);
  if (kind) sign(kind, node);
  make('span', '', node, text);
  return node;
}

// A finished picture as a column of the bench, beside its own.
function pin(cell, preview, label) {
  dispatchEvent(
    new CustomEvent('nag-pin', { detail: { cell: { ...cell, preview, state: 'done' }, label } }),
  );
  openRoom('Compare');
}

// A file that was asked for comes with the room's value, and stays in it.
function deliver(file) {
  if (!file || file.url === element.dataset.file) return;
  element.dataset.file = file.url;
  offer(file.url, file.orig_name || '');
}

function visible() {
  return element.offsetParent !== null;
}

// What a room is saved as; a button of that class asks for it.
const SAVED = ['picture', 'zip', 'html'];

// The page's one large button does what this room does, while the room is looked at: its word is
// that of the room's own button, which is hidden, and a press is passed on to it.
function lend() {
  const main = document.querySelector('#compare');
  if (!main || !$('.go')) return;
  const here = visible();
  const running = !$('.halt').hidden;
  tellState(running);
  if (!here && main.dataset.room !== ROOM) return;
  const word = running ? 'Stop' : $('.go').textContent;
  main.toggleAttribute('data-idle', here && !running && ($('.go').hidden || $('.go').disabled));
  for (const [name, text] of [
    ['data-room', ROOM],
    ['data-word', word],
    ['aria-label', word],
  ]) {
    if (here) main.setAttribute(name, text);
    else main.removeAttribute(name);
  }
}

// The bar, which the bench draws, says what goes on here too, whatever is looked at; else it would
// be "Ready" in the middle of a sweep.
function tellState(running) {
  const drawing = (window.nagDrawing ||= new Set());
  if (drawing.has(ROOM) === running) return;
  if (running) drawing.add(ROOM);
  else drawing.delete(ROOM);
  dispatchEvent(new Event('nag-drawing'));
}

// A link to what is looked at names the room, and what its own fields ask for.
addEventListener('nag-address', event => {
  if (!element.isConnected || !visible()) return;
  event.detail.set('room', ROOM);
  const own = typeof asked === 'function' ? asked() : {};
  for (const [name, text] of Object.entries(own)) event.detail.set(name, text);
});

new IntersectionObserver(lend).observe(element); // the room is opened, or left
document.addEventListener(
  'click',
  event => {
    if (!element.isConnected || !event.target.closest) return;
    const main = event.target.closest('#compare');
    if (!main || main.dataset.room !== ROOM || !visible()) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    const button = $('.halt').hidden ? $('.go') : $('.halt');
    if (!button.hidden) button.click();
  },
  true,
);
