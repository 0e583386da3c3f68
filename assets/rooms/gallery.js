// Gallery: an evaluation's pictures, a page at a time. Python sorts and filters; files are never
// named here.
const KINDS = {
  left: 'left',
  replaced: 'replaced',
  gone: 'gone',
  absent: 'never there',
  little: 'kept little',
};

function value() {
  return props.value && props.value.pictures ? props.value : null;
}

function ask(more) {
  const now = value();
  trigger('input', { ...(now ? now.asked : {}), page: 0, ...more });
}

function choices(node, list, chosen) {
  const known = JSON.stringify(list);
  if (node.dataset.known !== known) {
    node.dataset.known = known;
    node.replaceChildren();
    for (const [name, label] of list) make('option', '', node, label).value = name;
  }
  node.value = chosen;
}

function draw() {
  const now = value();
  $('.back').disabled = !now || !now.page;
  $('.on').disabled = !now || now.page + 1 >= now.pages;
  if (!now) {
    $('.what').textContent = 'Reading the results';
    return;
  }
  choices(
    $('.column'),
    now.columns.map(one => [one, one]),
    now.asked.column,
  );
  choices($('.case'), [['', 'all'], ...now.cases.map(one => [one, one])], now.asked.case);
  choices($('.sort'), now.sorts, now.asked.sort);
  $('.case').closest('.axis').hidden = !now.cases.length;
  drawOutcomes(now);
  const last = now.first + now.pictures.length;
  $('.what').textContent = now.count
    ? now.first + 1 + ' to ' + last + ' of ' + now.count
    : 'No picture fits.';
  $('.wall').style.setProperty('--aspect', now.aspect);
  $('.wall').replaceChildren(...now.pictures.map(one => picture(one)));
  $('.about').textContent =
    now.title +
    (now.outcomes.length
      ? '. Outcomes are those of the evaluation; “kept little”: fewer than ' +
        (now.little === 0.5 ? 'half' : Math.round(100 * now.little) + ' %') +
        ' of the other attributes are as without guidance.'
      : '. Nothing was read in these pictures, so there are no outcomes.');
}

function drawOutcomes(now) {
  const node = $('.outcomes');
  node.hidden = !now.outcomes.length;
  node.replaceChildren();
  for (const [kind, count] of [['', now.whole], ...now.outcomes]) {
    const button = make('button', '', node),
      chosen = now.asked.outcome === kind;
    if (kind && kind !== 'little') sign(kind, button);
    make('span', '', button, (kind ? KINDS[kind] : 'all') + ' ' + count);
    button.setAttribute('aria-pressed', String(chosen));
    button.addEventListener('click', () => ask({ outcome: kind }));
  }
}

// What is seen first is the picture; under the pointer, or with the keyboard on it, the one without
// guidance.
function picture(one) {
  const button = make('button', 'hung entry-pic' + (one.little ? ' little' : '')),
    frame = make('span', 'frame', button);
  const image = make('img', 'after', frame);
  image.alt = '';
  image.loading = 'lazy';
  if (one.preview) image.src = one.preview;
  else make('span', 'note', frame, 'its file is gone');
  if (one.before) {
    const before = make('img', 'before', frame);
    before.alt = '';
    before.src = one.before;
    make('span', 'tag', frame, 'No guidance');
  }
  const read = make('span', 'read', button);
  if (one.outcome) outcome(one.outcome, KINDS[one.outcome], read);
  if (one.keep !== null) {
    const kept = make('span', one.little ? 'few' : '', read);
    make('span', 'long', kept, 'kept ');
    kept.append(Math.round(100 * one.keep) + ' %');
  }
  make(
    'span',
    'words',
    button,
    one.prompt.replace(/^(portrait|a drawing) of (an? )?/, '') + ' − ' + one.negative,
  );
  button.title =
    '“' + one.prompt + '” not “' + one.negative + '”, seed ' + one.seed + ': open in Compare';
  button.setAttribute(
    'aria-label',
    one.prompt +
      ', not ' +
      one.negative +
      ', seed ' +
      one.seed +
      (one.outcome ? ', ' + KINDS[one.outcome] : '') +
      ': open in Compare',
  );
  button.disabled = !one.preview;
  button.addEventListener('click', () =>
    trigger('select', { number: one.number, column: one.column }),
  );
  return button;
}

for (const name of ['column', 'case', 'sort'])
  $('.' + name).addEventListener('change', event => ask({ [name]: event.target.value }));
$('.back').addEventListener('click', () => ask({ page: value().page - 1 }));
$('.on').addEventListener('click', () => ask({ page: value().page + 1 }));
// Compare is what it is elsewhere, and its pictures are in the other room.
document.addEventListener('click', event => {
  if (!element.isConnected || !visible() || !event.target.closest) return;
  if (event.target.closest('#compare')) openRoom('Compare');
});
// asked for when it is first looked at, so that it costs those nothing who never do
const watched = new IntersectionObserver(() => {
  if (!visible() || element.dataset.asked) return;
  element.dataset.asked = 'yes';
  if (!value()) trigger('input', {});
});
watched.observe(element);
watch('value', draw);
draw();
